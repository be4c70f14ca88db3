"""`python -m keras_grow.tools.benchmarks`: everything, or one of its parts."""

import click

from keras_grow.tools.benchmarks import (
    cost,
    helps,
    log_writing,
    memory,
    slots,
    surgery,
    teacher_student,
)


@click.group(invoke_without_command=True)
@click.pass_context
def main(context: click.Context) -> None:
    """Measure keras_grow. Without a command: all, at their quick settings."""
    if context.invoked_subcommand is None:
        context.invoke(cost.command)
        context.invoke(log_writing.command)
        context.invoke(memory.command)
        context.invoke(surgery.command)
        context.invoke(teacher_student.command)


main.add_command(cost.command)
main.add_command(helps.command)
main.add_command(log_writing.command)
main.add_command(memory.command)
main.add_command(slots.command)
main.add_command(surgery.command)
main.add_command(teacher_student.command)

if __name__ == "__main__":
    main()
