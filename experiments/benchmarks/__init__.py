"""The suites of experiments.benchmark.

Each suite is a module with its `CASES`, a function `rows(...)` that measures them, and a function
`line(row)` that formats a row of the printed table.

training            time, compilation and memory of a network's training step. PyTorch's versions are in
                    pytorch_training and pytorch_networks, the peak rates of the device in rates
gpu                 the training steps on a GPU within five minutes, with one worker per framework
kernels             number of kernels that a program launches on a GPU; hlo counts them, library_calls
                    has the solver calls
convolutions        the convolutions of the networks; PyTorch's versions are in pytorch_convolutions
dense_connection    ways to implement the dense connection of MSD-CSC
gradients           time and memory of the gradient through a solver
loop                fraction of an epoch that the host takes
solvers             time to a given accuracy compared with other libraries: problems, objective (the
                    kinds of problems), references (the minima), peers (the solvers), libraries (their
                    adapters), process (measures one solver in a process), comparison (the table of
                    ratios)
"""
