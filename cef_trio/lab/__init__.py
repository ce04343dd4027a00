"""The laboratory: streams on a virtual clock, with every outside service in this process: a run can be repeated.

Nothing here is used by the daemon. What it needs of the rest is what any caller needs: the interfaces at the edges.
"""
