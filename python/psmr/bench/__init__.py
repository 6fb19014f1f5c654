"""Measurements: a load (`workload`) on systems that are started for it (`launch`), timed and compared (`measure`)."""
