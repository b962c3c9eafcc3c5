"""A server of trained models: jobs in a database, one thread that draws, HTTP, a page, a client."""
