"""Takes a store (or anything with `read_into`), yields batches on a device."""
