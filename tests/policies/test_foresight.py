"""What the view tells of a declared graph and of the future, at each information level."""

import pytest

from tokencake.policies.api import Info, InformationError, Policy
from tokencake.policies.guard import HookError


class Asks(Policy):
    """Asks about every node when the first call arrives."""

    def __init__(self, info):
        self.info = info
        self.graph = self.answers = None

    def place(self, view, trigger, subject):
        if self.graph is None:
            program = subject.call.program
            tools = {node: program.tool(node) for node in program.nodes}
            self.graph = [(n, t.tool if t else None, program.agent_type(n)) for n, t in tools.items()]
            try:
                self.answers = [
                    view.foresee_call(program, n) if t is None else view.foresee_tool(program, n)
                    for n, t in tools.items()
                ]
                self.answers.append(view.foresee_output(subject.call))
            except InformationError as error:
                self.answers = str(error)
        return ()


@pytest.fixture
def ask(play, program, turn):
    def run(info):
        policy = Asks(info)
        play([program("p", *turn(16, output=2, tool_s=0.25))], policy)
        return policy

    return run


def test_the_graph_is_declared(ask):
    assert ask(Info.NONE).graph == [("first", None, "agent"), ("tool", "web", ""), ("second", None, "agent")]


@pytest.mark.parametrize(
    ("info", "answers"),
    [
        (Info.HISTORY, [None, None, None, None]),
        (Info.CLASS_MEAN, [1.5, 0.25, 1.5, 1.5]),
        (Info.ORACLE, [2.0, 0.25, 1.0, 2.0]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_the_future_is_told_as_the_level_allows(ask, info, answers):
    assert ask(info).answers == answers


def test_a_noisy_oracle_is_wrong_in_the_same_way_about_a_call_and_its_node(ask):
    first, tool, second, again = ask(Info.NOISY_ORACLE).answers
    assert first == again != 2.0
    assert (tool, second) != (0.25, 1.0)


def test_level_none_is_told_nothing(ask):
    assert "hides output of p/first" in ask(Info.NONE).answers


@pytest.mark.parametrize(
    ("question", "node", "answer"),
    [
        ("foresee_tool", "first", "node 'first' of program 'p' must be a tool call, is an LLM call"),
        ("foresee_call", "tool", "node 'tool' of program 'p' must be an LLM call, is a tool call"),
        ("foresee_tool", "third", "node 'third' of program 'p' must be a tool call, is none of its nodes"),
    ],
)
def test_a_question_about_the_wrong_node_is_refused(play, program, turn, question, node, answer):
    class Errs(Policy):
        def place(self, view, trigger, subject):
            getattr(view, question)(subject.call.program, node)
            return ()

    with pytest.raises(HookError, match=f"Errs: place raised ValueError: {answer}"):
        play([program("p", *turn(16))], Errs())


def test_a_finished_call_has_all_its_outputs(play, program, turn):
    seen = []

    class Looks(Policy):
        def place(self, view, trigger, subject):
            if trigger.name in ("STALL", "RETURN"):
                seen.append((subject.call.id, subject.call.output_tokens))
            return ()

    play([program("p", *turn(16, output=3))], Looks())
    assert seen == [("p/first", 3), ("p/first", 3), ("p/second", 1)]
