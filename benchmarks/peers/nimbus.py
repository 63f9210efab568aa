"""Nimbus-Inference 0.0.5 on one field, through its public classes and in the order of its notebook.

Run with the interpreter of its own environment: ``python nimbus.py FOV SEGMENTATION OUT CHECKPOINT [--tta]
[--threads N]``. It writes ``normalization_dict.json`` and ``nimbus_cell_table.csv`` into OUT, and no maps. With one field
the random choice of fields for its normalisation has no choice.
"""

from __future__ import annotations

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("fov", "segmentation", "out", "checkpoint"):
        parser.add_argument(name)
    parser.add_argument("--tta", action="store_true")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads:
        import cv2
        import torch

        cv2.setNumThreads(options.threads)
        torch.set_num_threads(options.threads)
    from nimbus_inference.nimbus import Nimbus, prep_naming_convention
    from nimbus_inference.utils import MultiplexDataset

    dataset = MultiplexDataset(
        fov_paths=[options.fov],
        suffix=".tiff",
        include_channels=[],
        segmentation_naming_convention=prep_naming_convention(options.segmentation),
        output_dir=options.out,
        magnification=20,
    )
    nimbus = Nimbus(
        dataset=dataset,
        output_dir=options.out,
        save_predictions=False,
        batch_size=4,
        test_time_aug=options.tta,
        input_shape=[1024, 1024],
        device="cpu",
        checkpoint=options.checkpoint,
    )
    nimbus.check_inputs()
    dataset.prepare_normalization_dict(quantile=0.999, clip_values=(0, 2), n_subset=50, overwrite=True)
    nimbus.predict_fovs()


if __name__ == "__main__":
    main()
