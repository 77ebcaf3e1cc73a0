"""For nbval: a kernel on a busy machine may pause longer than the 5 seconds that nbval waits for an output."""


def pytest_itemcollected(item):
    if hasattr(item, "output_timeout"):
        item.output_timeout = 120
