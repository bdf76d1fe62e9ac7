"""Takes folders of rasters, GLCM and labels; yields Scenes, read by windows."""
