"""Job files: many images, several tasks in a row, night after night, each image once.

    job file ──► sources ──► survey (what is new, changed, done) ──► groups of images ──► task after task ──► ledger

A job never computes anything itself: each image and task is a run of its own by :mod:`mxbridge.tasks.over_images`, which goes on
after a kill. The ledger says which of these are done, for which inputs, by which runner.
"""
