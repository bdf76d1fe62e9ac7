"""Takes Scenes, yields a store."""
