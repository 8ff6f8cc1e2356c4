"""What every pair passes, by one whose columns are of every kind."""

import pytest
import torch
from examples import pair
from test_contract import (  # noqa: F401  (collected here, with the pair below)
    test_a_gradient_reaches_every_parameter,
    test_an_all_false_row_adds_only_minus_kl,
    test_an_all_true_mask_changes_nothing,
    test_check_passes,
    test_permuting_the_rows_permutes_the_log_weights,
    test_predictive_and_condition_work,
    test_saved_and_loaded_it_gives_the_same_numbers,
    test_stock_svi_trains_two_pairs_in_one_process,
    test_story_and_guide_have_the_same_latents,
    test_the_bound_rises_with_particles_and_stays_below_the_truth,
    test_the_mask_counts_exactly_the_observed_entries,
    test_vectorised_and_looped_particles_agree,
)

KINDS = ("ordinal:4", "real", "categorical:3", "count", "positive", "binary", "real", "ordinal:3", "count")


@pytest.fixture
def made():
    scales = tuple((0.5, 2.0) if kind in ("real", "positive", "count") else (0.0, 1.0) for kind in KINDS)
    found = pair("mixed_vae", kinds=KINDS, scales=scales, hidden=(16,))
    with torch.no_grad():
        for p in found.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return found
