"""Every family against transformers, in f32: logits, loss and all gradients of a random model with awkward sizes."""

import unittest

import torch
from support import ParityTest, Tensors
from make_goldens import COMMON, build_model, cross_entropy, gradients
from transformers import PreTrainedModel

# Both sides compute in f32, in different orders; the worst tensor of a family is some 5e-6 apart.
BOUND = 1e-4
# Other sizes and seeds than the goldens have.
SIZES = {"hidden_size": 42, "intermediate_size": 53, "num_hidden_layers": 3, "num_attention_heads": 6,
         "num_key_value_heads": 2, "vocab_size": 89, "head_dim": 14}
SEQUENCES, LENGTH = 3, 29


class FamiliesParity(ParityTest):
    def check(self, config: dict[str, object], shard_bytes: int | str = "5GB", length: int = LENGTH) -> None:
        """The outputs of a model of this config, computed by both sides."""
        model = build_model(COMMON | SIZES | config, seed=71).float()
        tokens = torch.randint(model.config.vocab_size, (SEQUENCES, length),
                               generator=torch.Generator().manual_seed(72))
        ours = self.outputs_of(self.import_model(model, shard_bytes), tokens)
        theirs = reference(model, tokens)
        worst = {}
        for name, expected in theirs.items():
            worst[name] = self.relative_error(ours[name].reshape(expected.shape), expected)
        self.assertEqual(sorted(theirs), sorted(ours))
        largest = max(worst, key=worst.get)
        print(f"{config['model_type']}: worst {worst[largest]:.1e} ({largest}), logits {worst['logits']:.1e}, "
              f"losses {worst['losses']:.1e}")
        self.assertLess(worst[largest], BOUND, largest)

    def test_llama_in_shards(self) -> None:
        self.check({"model_type": "llama", "attention_bias": True}, shard_bytes=20_000)

    def test_mistral_window(self) -> None:
        self.check({"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 11})


def reference(model: PreTrainedModel, tokens: torch.Tensor) -> Tensors:
    """What transformers gives."""
    logits = model(tokens).logits
    loss = cross_entropy(logits, tokens)
    losses = torch.zeros(tokens.shape)
    losses[:, :-1] = -logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0].detach()
    return {"logits": logits.detach(), "losses": losses} | gradients(model, loss, "gradients.")


if __name__ == "__main__":
    unittest.main()
