"""Figures over the answers of a session."""

from __future__ import annotations

from dataclasses import dataclass

from bros.cli.chat.answer import Answer


@dataclass
class ConversationTotals:
    """Sums over answers."""

    answers: int = 0
    output_tokens: int = 0
    ttft_s: float = 0.0  # sum over all answers with text
    with_text: int = 0
    judged: int = 0
    met: int = 0

    def add(self, answer: Answer) -> None:
        """Add an answer that is over."""
        self.answers += 1
        self.output_tokens += answer.output_tokens or 0
        if answer.ttft_s is not None:
            self.with_text += 1
            self.ttft_s += answer.ttft_s

    def judge(self, met: bool) -> None:
        """Count an answer that met its objectives or missed them."""
        self.judged += 1
        self.met += met

    def status(self) -> list[str]:
        """Return pieces of a status line."""
        return [f"SLO met {self.met} of {self.judged}"] if self.judged else []

    def summary(self) -> str:
        """Return the session in one line."""
        parts = [f"{self.answers} answers", f"{self.output_tokens:,} tokens"]
        if self.with_text:
            parts.append(f"mean TTFT {self.ttft_s / self.with_text * 1000:.0f} ms")
        if self.judged:
            parts.append(f"SLO met {self.met} of {self.judged}")
        return ", ".join(parts)
