"""The tests are a package, so that they import their shared parts by one name: ``from tests.mosquitto import Mosquitto``."""
