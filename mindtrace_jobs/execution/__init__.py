"""The life of a job, once for every runner: what happens when, and how it is carried out."""
