"""What the service API costs: calls beside a bare Starlette answer, long lists, training, memory.

`scripts/bench --service` runs it.
"""
