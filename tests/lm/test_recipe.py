"""Recipes: what they refuse, and the model and the arguments of the Trainer that they give."""

import dataclasses
import json

import pytest
import torch
from transformers import TrainingArguments

from focallm.lm.training.recipe import REFUSED, RESERVED, LMRecipe, build_model, training_arguments
from focallm.tokenizer import AudioTokenizer
from focallm.tokenizer.configs import load_config

# Fields of TrainingArguments that training reads, in transformers 5.24. Decide about each field of a newer version:
# it belongs here or into REFUSED.
HONORED_NAMES = """
    accelerator_config activation_checkpointing activation_checkpointing_kwargs adam_beta1 adam_beta2
    adam_epsilon auto_find_batch_size average_tokens_across_devices bf16 dataloader_drop_last
    dataloader_in_order dataloader_multiprocessing_context dataloader_num_workers dataloader_persistent_workers
    dataloader_pin_memory dataloader_prefetch_factor ddp_backend ddp_broadcast_buffers ddp_bucket_cap_mb
    ddp_find_unused_parameters ddp_static_graph ddp_timeout debug disable_tqdm enable_jit_checkpoint
    eval_accumulation_steps eval_delay eval_on_start eval_steps eval_strategy eval_use_gather_object fp16 fsdp
    fsdp_config full_determinism gradient_accumulation_steps gradient_checkpointing
    gradient_checkpointing_kwargs greater_is_better hub_private_repo include_num_input_tokens_seen learning_rate
    load_best_model_at_end log_level log_level_replica log_on_each_node logging_first_step logging_steps
    logging_strategy lr_scheduler_kwargs lr_scheduler_type max_grad_norm max_steps metric_for_best_model
    neftune_noise_alpha num_train_epochs optim optim_args optim_target_modules per_device_eval_batch_size
    per_device_train_batch_size project report_to restore_callback_states_from_checkpoint run_name save_steps
    save_strategy save_total_limit skip_memory_metrics tf32 torch_compile torch_compile_backend
    torch_compile_mode torch_empty_cache_steps trackio_bucket_id trackio_space_id trackio_static_space_id
    use_cpu warmup_steps weight_decay
"""
HONORED = set(HONORED_NAMES.split())


def test_every_option_of_the_trainer_is_honored_or_refused():
    fields = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert fields - HONORED - set(REFUSED) - set(RESERVED) == set()
    assert not HONORED & (set(REFUSED) | set(RESERVED))


@pytest.mark.parametrize("name", [*REFUSED, *RESERVED])
def test_an_option_without_effect_is_refused_by_name(name):
    with pytest.raises(ValueError, match=rf"trainer\.{name} .* leave it out"):
        LMRecipe(trainer={name: 1 if name in ("label_smoothing_factor", "local_rank") else "another value"})


def test_options_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match=r"max_steps and trainer.num_train_epochs exclude each other"):
        LMRecipe(trainer={"max_steps": 4, "num_train_epochs": 1})
    with pytest.raises(ValueError, match="include_num_input_tokens_seen can only be all or no"):
        LMRecipe(trainer={"include_num_input_tokens_seen": "non_padding"})
    LMRecipe(trainer={"label_smoothing_factor": 0, "include_for_metrics": [], "include_num_input_tokens_seen": "all"})


def test_a_number_of_steps_between_checkpoints_is_used_without_a_strategy(tmp_path):
    steps = {"save_steps": 5, "eval_steps": 7, "report_to": [], "use_cpu": True}
    arguments = training_arguments(LMRecipe(trainer=steps), tmp_path)
    assert (arguments.save_strategy, arguments.save_steps) == ("steps", 5)
    assert (arguments.eval_strategy, arguments.eval_steps) == ("steps", 7)
    arguments = training_arguments(LMRecipe(trainer={**steps, "save_strategy": "epoch"}), tmp_path)
    assert arguments.save_strategy == "epoch"


def test_unknown_keys_of_a_recipe_are_refused(tmp_path):
    def read(**values):
        (tmp_path / "r.yaml").write_text(json.dumps(values))
        return load_config(LMRecipe, tmp_path / "r.yaml")

    for values, message in [
        ({"modle": "tiny"}, r"r.yaml: unknown keys \['modle'\]"),
        ({"lora": {"rnak": 3}, "base": "x"}, r"lora: unknown keys \['rnak'\]; known keys: rank"),
        ({"extra_tasks": [{"store": "x"}]}, r"extra_tasks\[0\]: missing keys \['task'\]"),
        ({"extra_tasks": ["tts"]}, r"extra_tasks\[0\]: expected a mapping with keys of task, store"),
        ({"base": "x", "model": "tiny"}, r"base \(x\) and model \(tiny\) exclude each other"),
        ({"base": "x", "text": "characters"}, r"base \(x\) and text \(characters\) exclude each other"),
        ({"lora": {}}, "lora needs base"),
        ({"text": ["bytes"]}, r"text: expected .*, found \['bytes'\]"),
        ({"text": {"bytes": 1}}, "text must be characters, "),
        ({"embeddings": "zero"}, "embeddings: expected .*mean.*codec.*, found 'zero'"),
        ({"prompt_dropout": 1.0}, "prompt_dropout must be at least 0 and less than 1"),
        ({"code_noise": -0.1}, "code_noise must be at least 0 and less than 1"),
        ({"code_smoothing": 1.0}, "code_smoothing must be at least 0 and less than 1"),
        ({"validation_fraction": 0}, "validation_fraction must be between 0 and 1"),
        ({"trainer": {"seed": 1}}, "trainer.seed is set by focallm"),
        ({"max_length": "long"}, "max_length: expected an integer, found 'long'"),
        ({"packing": "no"}, "packing: expected true or false, found 'no'"),
        ({"extra_tasks": 5}, "extra_tasks: expected a list, found 5"),
        ({"trainer": {"warmup_steps": "abc"}}, "trainer.warmup_steps is a number, found 'abc'"),
        ({"trainer": {"max_steps": 0}}, "trainer.max_steps must be above 0"),
        ({"trainer": {"num_train_epochs": 0}}, "trainer.num_train_epochs must be above 0"),
        ({"trainer": {"gradient_accumulation_steps": 0}}, "trainer.gradient_accumulation_steps must be above 0"),
        ({"trainer": {"learning_rat": 1}}, r"unknown keys \['learning_rat'\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            read(**values)
    recipe = read(
        base="x", lora={"rank": 4}, extra_tasks=[{"task": "text", "store": "lines.txt"}], evaluate={"samples": 1}
    )
    assert recipe.lora.rank == 4
    assert recipe.extra_tasks[0].repeat == 1


def test_rows_longer_than_the_model_are_a_contradiction(codec):
    with pytest.raises(ValueError, match=r"max_length \(5000\) exceeds the model's 4096 positions"):
        build_model(LMRecipe(model="tiny", max_length=5000), AudioTokenizer(codec("mel")), ["abc"])


def test_a_vocabulary_can_be_trained_on_the_texts(codec):
    texts = ["the cat sat on the mat", "the dog sat on the log"] * 20
    lm = build_model(LMRecipe(model="tiny", text={"pieces": 30}), AudioTokenizer(codec("mel")), texts)
    assert len(lm.vocabulary.text_ids(texts[0])) < len(texts[0])


def test_precision_follows_the_hardware(tmp_path):
    hardware = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    assert training_arguments(LMRecipe(), tmp_path).bf16 == hardware
    assert not training_arguments(LMRecipe(trainer={"use_cpu": True}), tmp_path).bf16
