"""The suites of experiments.benchmark: each a module with its cases, `rows(...)` and `line(row)`.

    training    time, compilation and memory of a network's training step
    gradients   time and memory of differentiating a solver
    solvers     time to accuracy beside other libraries: problems, references (the minima), libraries
                (one adapter each) and process (measures one of them in a process of its own)

Framework rows to set beside ours in `training` belong in a module of their own here.
"""
