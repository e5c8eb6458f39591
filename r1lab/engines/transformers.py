"""transformers' `generate` as an engine: slower, and there wherever a model loads."""

import torch

from r1lab.engines import Completion, Progress


class TransformersEngine:
    """`generate` on a transformers model that is in memory."""

    name = "transformers"

    def __init__(self, model, tokenizer, *, batch_size: int = 64):
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size

    @torch.inference_mode()
    def generate(
        self,
        prompts: list[str],
        *,
        n: int = 1,
        max_tokens: int = 256,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        progress: Progress | None = None,
    ) -> list[list[Completion]]:
        """`n` completions a prompt. Temperature 0 is greedy decoding."""
        was_training = self.model.training
        self.model.eval()
        sampling = {"do_sample": temperature > 0}
        if temperature > 0:
            sampling |= {"temperature": temperature, "top_p": top_p, "top_k": top_k}
        done: list[list[Completion]] = []
        tokens = 0
        step = max(1, self.batch_size // n)
        for first in range(0, len(prompts), step):
            batch = self.tokenizer(
                prompts[first : first + step],
                add_special_tokens=False,
                padding=True,
                padding_side="left",
                return_tensors="pt",
            ).to(self.model.device)
            out = self.model.generate(
                **batch,
                **sampling,
                num_return_sequences=n,
                max_new_tokens=max_tokens,
                pad_token_id=self.tokenizer.pad_token_id,
                eos_token_id=self.tokenizer.eos_token_id,
                return_dict_in_generate=True,
                output_scores=True,
                disable_compile=True,
            )
            completions = self._completions(out, batch["input_ids"].shape[1])
            tokens += sum(len(c.token_ids) for c in completions)
            done += [completions[i : i + n] for i in range(0, len(completions), n)]
            if progress:
                progress(len(done), len(prompts), tokens)
        self.model.train(was_training)
        return done

    def _completions(self, out, prompt_length: int) -> list[Completion]:
        sequences = out.sequences[:, prompt_length:]
        scores = torch.stack(out.scores, dim=1).float().log_softmax(-1)  # (sequences, tokens, vocabulary)
        chosen = scores.gather(-1, sequences[..., None])[..., 0]
        completions = []
        for ids, logprobs in zip(sequences.tolist(), chosen.tolist()):
            end = self.tokenizer.eos_token_id
            truncated = end not in ids
            length = len(ids) if truncated else ids.index(end) + 1
            completions.append(
                Completion(
                    text=self.tokenizer.decode(ids[:length], skip_special_tokens=True),
                    token_ids=ids[:length],
                    logprobs=logprobs[:length],
                    truncated=truncated,
                )
            )
        return completions
