"""Small programs that show one thing each: ``python3 -m examples.NAME --address localhost:1883``."""
