"""The demo: a guest that checks itself, on its way between two hosts. On one machine (`make demo`), and in containers."""
