"""What prompts, outputs and results stand for."""

from hypothesis import given
from hypothesis import strategies as st

from tokencake.traces.prefix import PrefixIndex
from tokencake.traces.resolve import resolve
from tokencake.traces.schema import LLMNode, OutputOf, Piece, Program, PromptOf, PromptPart, ResultOf, ToolNode


def call(node_id: str, *prompt: PromptPart, after: tuple[str, ...] = (), **more: object) -> LLMNode:
    return LLMNode(node_id, after, "a", "a", prompt, 10, **more)  # type: ignore[arg-type]


def one(program: str, *nodes: LLMNode | ToolNode) -> Program:
    return Program(program, "x", 0.0, nodes)


def test_references_are_written_out() -> None:
    program = one(
        "p",
        call("b", PromptOf("a"), OutputOf("a"), ResultOf("t"), Piece("ask", 3), Piece("none", 0), after=("t",)),
        call("a", Piece("s", 5), output=(Piece("u", 4), Piece("v", 6))),
        ToolNode("t", ("a",), "search", 1.0, result_tokens=7),
    )
    content = resolve(program)["b"]
    assert content.prompt == (("s", 5), ("u", 4), ("v", 6), ("r:p/t", 7), ("ask", 3))
    assert content.prompt_tokens == 25
    assert list(resolve(program)) == ["b", "a"]


def test_equal_prompts_have_equal_outputs_unless_an_id_differs() -> None:
    system = Piece("s", 5)
    first = resolve(one("p", call("a", system), call("twin", system), call("own", system, output_id="1")))
    other = resolve(one("q", call("z", system), call("own", system, output_id="2")))
    assert first["a"].output == first["twin"].output == other["z"].output
    assert len({first["a"].output, first["own"].output, other["own"].output}) == 3


def test_a_prompt_is_its_tokens_however_it_is_spelled() -> None:
    nodes = (
        call("a", Piece("s", 5), Piece("t", 2)),
        call("b", PromptOf("a"), Piece("u", 1), after=("a",)),
        call("c", Piece("s", 5), Piece("t", 2), Piece("z", 0), Piece("u", 1)),
    )
    content = resolve(one("p", *nodes))
    assert content["b"].prompt == content["c"].prompt
    assert content["b"].output == content["c"].output
    # One token more or less is another prompt.
    shorter = resolve(one("p", call("a", Piece("s", 5), Piece("t", 1), Piece("u", 1))))
    assert shorter["a"].output != content["b"].output


def test_a_result_is_unique_to_its_node_unless_it_is_named() -> None:
    def content(program: str, result_id: str | None) -> object:
        tool = ToolNode("t", (), "search", 1.0, result_tokens=4, result_id=result_id)
        return resolve(one(program, tool, call("a", ResultOf("t"), after=("t",))))["a"].prompt

    assert content("p", None) == (("r:p/t", 4),) != content("q", None)
    assert content("p", "wiki") == (("r:wiki", 4),) == content("q", "wiki")


sequences = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 3)), min_size=1, max_size=4)


@given(st.lists(sequences, max_size=5), sequences)
def test_the_prefix_index_compares_tokens(known: list[list[tuple[str, int]]], asked: list[tuple[str, int]]) -> None:
    index = PrefixIndex()
    for sequence in known:
        index.add(sequence)

    def common(one: list[tuple[str, int]], two: list[tuple[str, int]]) -> int:
        # Tokens are stream and place in it, under the pieces before: exactly what chained blocks see.
        total = 0
        for (content, tokens), (content_, tokens_) in zip(one, two, strict=False):
            if content != content_:
                break
            total += min(tokens, tokens_)
            if tokens != tokens_:
                break
        return total

    assert index.common(asked) == max((common(sequence, asked) for sequence in known), default=0)
