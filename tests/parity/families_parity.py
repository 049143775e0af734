"""Every family against transformers, in f32: logits, loss and all gradients of a random model with awkward sizes."""

import unittest

import torch
from support import ParityTest, Tensors
from make_goldens import build_model, config_of, cross_entropy, gradients
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
        model = build_model(config_of(SIZES | config), seed=71).float()
        tokens = torch.randint(model.config.vocab_size, (SEQUENCES, length),
                               generator=torch.Generator().manual_seed(72))
        ours = self.outputs_of(self.import_model(model, shard_bytes), tokens)
        theirs = reference(model, tokens)
        self.assertEqual(sorted(theirs), sorted(ours))
        worst = {name: self.relative_error(ours[name].reshape(expected.shape), expected)
                 for name, expected in theirs.items()}
        largest = max(worst, key=worst.get)
        print(f"{config['model_type']}: worst {worst[largest]:.1e} ({largest}), logits {worst['logits']:.1e}, "
              f"losses {worst['losses']:.1e}")
        self.assertLess(worst[largest], BOUND, largest)

    def test_llama_in_shards(self) -> None:
        self.check({"model_type": "llama", "attention_bias": True}, shard_bytes=20_000)

    def test_llama_rotary_scalings(self) -> None:
        """Every kind of scaling; 14 elements of a head are seven frequencies."""
        for scaling in (
            {"rope_type": "linear", "factor": 3.0},
            {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
             "original_max_position_embeddings": 50},
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
            {"rope_type": "yarn", "factor": 6.0, "original_max_position_embeddings": 40, "beta_fast": 8.0,
             "beta_slow": 2.0, "attention_factor": 1.4},
            {"rope_type": "longrope", "factor": 5.0, "original_max_position_embeddings": 32,
             "short_factor": [1.0, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5], "long_factor": [2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]},
        ):
            with self.subTest(scaling=scaling["rope_type"]):
                self.check({"model_type": "llama", "rope_scaling": scaling, "max_position_embeddings": 160})

    def test_mistral_window(self) -> None:
        self.check({"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 11})

    def test_qwen2(self) -> None:
        self.check({"model_type": "qwen2", "head_dim": 7 * 2})
        self.check({"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 2})

    def test_qwen3(self) -> None:
        self.check({"model_type": "qwen3", "head_dim": 22, "tie_word_embeddings": True})

    def test_phi3(self) -> None:
        """Sequences within the original positions and beyond them."""
        factors = {"type": "longrope", "short_factor": [1.0, 1.2, 1.4, 1.6, 1.8], "long_factor": [1.0, 3.0, 5.0, 7.0, 9.0]}
        config = {"model_type": "phi3", "head_dim": 14, "hidden_size": 84, "rope_scaling": factors,
                  "partial_rotary_factor": 0.75, "original_max_position_embeddings": 30,
                  "max_position_embeddings": 120, "sliding_window": 13, "pad_token_id": 0}
        self.check(config)
        self.check(config, length=41)

    def test_gemma2(self) -> None:
        self.check({"model_type": "gemma2", "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 9,
                    "sliding_window": 8, "attn_logit_softcapping": 4.0, "final_logit_softcapping": 6.0,
                    "tie_word_embeddings": True})

    def test_gemma3(self) -> None:
        self.check({"model_type": "gemma3_text", "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 9,
                    "sliding_window": 8, "sliding_window_pattern": 3, "rope_theta": 1e6,
                    "rope_local_base_freq": 3000.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0},
                    "tie_word_embeddings": True})


def reference(model: PreTrainedModel, tokens: torch.Tensor) -> Tensors:
    """What transformers gives."""
    logits = model(tokens).logits
    loss = cross_entropy(logits, tokens)
    losses = torch.zeros(tokens.shape)
    losses[:, :-1] = -logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0].detach()
    return {"logits": logits.detach(), "losses": losses} | gradients(model, loss, "gradients.")


if __name__ == "__main__":
    unittest.main()
