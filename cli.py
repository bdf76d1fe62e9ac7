"""torchrun's entry: `torchrun --nproc_per_node 2 cli.py train`. The same as the `glacier` command."""

from glacier.cli import main

if __name__ == "__main__":
    main()
