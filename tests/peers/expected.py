"""Which of the peers' tests are run, and the few that cannot pass, each with its reason."""

_SB3 = [
    "test_buffers",
    "test_callbacks",
    "test_cnn",
    "test_custom_policy",
    "test_deterministic",
    "test_dict_env",
    "test_distributions",
    "test_gae",
    "test_identity",
    "test_logger",
    "test_predict",
    "test_run",
    "test_save_load",
    "test_sde",
    "test_spaces",
    "test_tensorboard",
    "test_train_eval_mode",
    "test_utils",
    "test_vec_envs",
    "test_vec_extract_dict_obs",
    "test_vec_monitor",
    "test_vec_normalize",
]
_OTHER_ALGORITHMS = "not SAC and not TD3 and not DDPG and not DQN and not dqn and not HER and not her_"

SELECTED: dict[str, list[str]] = {
    "sb3-PPO": [*(f"tests/{name}.py" for name in _SB3), "-k", _OTHER_ALGORITHMS],
    "sb3-A2C": [*(f"tests/{name}.py" for name in _SB3), "-k", f"{_OTHER_ALGORITHMS} and not PPO"],
    "zoo-PPO": [
        *(f"tests/{name}.py" for name in ("test_train", "test_hyperparams_opt", "test_wrappers", "test_callbacks")),
        "-k",
        "not a2c and not dqn and not sac and not td3 and not ddpg and not tqc and not trpo and not ars and not ppo_lstm",
    ],
}

CANNOT_PASS: dict[str, dict[str, str]] = {
    "sb3-PPO": {
        "tests/test_run.py::test_ppo_warnings": "expects the word PPO in SB3's hint about the GPU; ours says GIPO",
        "tests/test_tensorboard.py::test_tensorboard[ppo]": "expects the log folder PPO_1; ours is GIPO_1",
    },
    "sb3-A2C": {},
    "zoo-PPO": {
        "tests/test_train.py::test_continue_training": "goes on from an A2C agent in a submodule, and is about A2C",
    },
}
