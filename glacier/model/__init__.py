"""Takes batches of images, yields class scores; losses and metrics of them."""
