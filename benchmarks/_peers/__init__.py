"""One library a module, each doing the same work on a broker of its own choice of words. For ``peers.py``; no benchmark itself.

Each module has VERBS: functions by what they measure, called in a process of their own with a ``Place``.
"""
