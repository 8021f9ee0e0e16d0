-- Removes the ready and the delayed messages of a queue; returns how many. ARGV: queue.
return purge(ARGV[1])
