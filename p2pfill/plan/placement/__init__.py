"""What should lie where: files to caches, by what they are worth there and by what it costs to move them."""
