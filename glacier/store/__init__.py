"""The on-disk format: takes arrays of tiles, yields a Zarr store; and reads windows back from it."""
