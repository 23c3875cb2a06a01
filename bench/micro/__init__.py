"""Small pieces of the product measured by themselves: how fast each is, and how many instructions it takes."""
