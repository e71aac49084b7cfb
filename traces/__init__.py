"""Agent traces: the schema, its reader and writer, a builder, importers and generators."""
