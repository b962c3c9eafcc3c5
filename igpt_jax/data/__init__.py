"""Pictures in: sources, transforms, the input pipeline and encoded token shards."""
