"""The suites of experiments.benchmark: each a module with its cases, `rows(...)` and `line(row)`.

training            time, compilation and memory of a network's training step; its PyTorch rows are
                    of pytorch_training and pytorch_networks, the device's rates of rates
gpu                 the training steps again, in five minutes of a GPU; a worker for each framework
kernels             what a program launches on a GPU: hlo (counts a text), library_calls
convolutions        those of the networks one by one, PyTorch's of pytorch_convolutions
dense_connection    ways to write the dense connection of MSD-CSC
gradients           time and memory of differentiating a solver
solvers             time to accuracy beside other libraries: problems, references (the minima),
                    libraries (an adapter each), process (measures one in a process of its own)
"""
