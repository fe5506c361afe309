"""Requests and answers as the service model has them: routes, parsing, validation, serialising."""
