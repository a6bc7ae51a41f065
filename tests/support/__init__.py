"""What the tests share: a guest that verifies itself, and what is made of its words."""
