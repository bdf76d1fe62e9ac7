"""Takes a run and Scenes, yields georeferenced class maps."""
