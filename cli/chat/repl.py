"""The chat loop on a terminal: questions, answers as growing Markdown, a line of timings."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from rich.console import Console

from bros.brosd.client.client import ApiError, Client, ClientError, Stats
from bros.cli.chat.answer import Answer
from bros.cli.chat.conversation import Conversation, ConversationStore
from bros.cli.chat.prompt import Prompt
from bros.cli.chat.slash import Slash, is_command
from bros.cli.chat.stream import MarkdownStream
from bros.cli.chat.tally import ConversationTotals
from bros.cli.chat.typed_ahead import typed_ahead
from bros.cli.errors import one_line
from bros.cli.printable import printable


def converse(client: Client, stats: Stats | None, conversation: Conversation, home: Path) -> None:
    """Ask and answer until the user leaves. `home` is where the user's history is kept."""
    chat = Chat(client, stats, conversation, ConversationStore(home / "chats"))
    prompt = Prompt(home / "chat_history", chat.slash.complete, chat.status)
    chat.say(f"{conversation.model} -- /help for help, Ctrl-D to leave")
    while not chat.over and (line := prompt.read(chat.draft)) is not None:
        chat.take(line)


class Chat:
    """A conversation on the screen."""

    def __init__(
        self,
        client: Client,
        stats: Stats | None,
        conversation: Conversation,
        shelf: ConversationStore,
    ) -> None:
        self._client = client
        self._stats = stats
        self._console = Console(highlight=False)
        self.conversation = conversation
        self.shelf = shelf
        self.tally = ConversationTotals()
        self.slash = Slash(self)
        self.over = False
        self.draft = ""  # what was typed while an answer came
        self.unanswered: str | None = None  # the last question, if its answer was lost

    def take(self, line: str) -> None:
        """Obey a command, or answer a question."""
        self.draft = ""
        if is_command(line):
            self.slash.run(line)
        else:
            self.answer(line)

    def say(self, text: str) -> None:
        """Print something that the model did not say."""
        self._console.print(printable(text), style="dim", markup=False)

    def complain(self, error: Exception) -> None:
        """Print what went wrong, and what to do if that is known."""
        self._console.print(f"error: {one_line(error)}", style="red", markup=False)
        if isinstance(error, ApiError) and error.code == "context_length_exceeded":
            self.say("/clear starts a new conversation")

    def status(self) -> str:
        """Return the line below the question that is being typed."""
        return ", ".join([*self.conversation.status(self.max_len), *self.tally.status()])

    @property
    def max_len(self) -> int:
        """Tokens that a conversation can have; 0 if not known."""
        return self._stats.max_len if self._stats else 0

    def daemon(self) -> Stats | None:
        """Return the daemon's latest statistics; None if there are none yet."""
        self._stats = self._client.status() or self._stats
        return self._stats

    def answer(self, question: str) -> None:
        """Answer a question. If that fails, forget the question; a stopped answer is kept."""
        self.unanswered = None
        self.conversation.ask(question)
        answer = Answer(self._client, self.conversation.body())
        try:
            stopped = self._show(answer)
        except ClientError as error:
            self.conversation.take_back()
            self.complain(error)
            if not isinstance(error, ApiError):
                self.unanswered = question
                self.say("the question is kept: /retry asks it again")
            return
        self.conversation.answered(answer.text)
        self.conversation.count(answer.total_tokens, answer.pieces)
        self.tally.add(answer)
        self.say(", ".join([f"{stopped}{answer.timings()}", *self._verdict(answer)]))

    def _show(self, answer: Answer) -> str:
        with closing(answer), typed_ahead(self._keep_draft):
            try:
                with MarkdownStream(self._console) as screen:
                    for piece in answer:
                        screen.add(printable(piece))
            except KeyboardInterrupt:
                return "stopped; "
        return ""

    def _keep_draft(self, text: str) -> None:
        self.draft = text

    def _verdict(self, answer: Answer) -> list[str]:
        """Return how full the context is, and whether the answer met its objectives."""
        parts = []
        if answer.total_tokens and self.max_len:
            parts.append(f"context {answer.total_tokens / self.max_len:.0%}")
        if self._stats and answer.ttft_s is not None:
            ttft_s = self.conversation.objective_s("ttft", self._stats.slo.ttft_s)
            tpot_s = self.conversation.objective_s("tpot", self._stats.slo.tpot_s)
            met = answer.ttft_s <= ttft_s and (answer.tpot_s or 0.0) <= tpot_s
            self.tally.judge(met)
            parts.append("SLO met" if met else "SLO missed")
        return parts
