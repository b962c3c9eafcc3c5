"""What Alembic runs: the migrations, on the connection that `igpt_jax.serving.database` opened."""

from alembic import context

from igpt_jax.serving.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
)
context.run_migrations()
