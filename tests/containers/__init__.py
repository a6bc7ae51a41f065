"""The two hosts of docker-compose.yml for real, on a Docker daemon that the tests start and end."""
