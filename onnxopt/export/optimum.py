"""optimum-onnx, where it is installed and knows the model."""

from __future__ import annotations

import importlib.util
from typing import ClassVar

import onnx_ir as ir

from onnxopt.export.exporters import ExportFailedError, Job, few_lines
from onnxopt.export.parts import Part
from onnxopt.graph.loading import load_model
from onnxopt.runtime.inputs.user_functions import user_code

# It writes files by way of protobuf messages in memory, weights included.
_MOST_BYTES = 1 << 30


class OptimumExporter:
    """`optimum.exporters.onnx`."""

    name: ClassVar[str] = "optimum"

    def refusal(self, job: Job, part: Part) -> str:
        """It has to be installed and to know the model and the task, in one file as here."""
        if not job.model:
            return "it exports Hugging Face models only"
        if not installed():
            return "optimum-onnx is not installed: pip install 'onnxopt[export]'"
        if job.parts > 1:
            return "it splits encoder-decoder models into other files"
        if job.weight_bytes > _MOST_BYTES:
            return "it would hold a second copy of the weights"
        try:
            import optimum.exporters.onnx.model_configs  # noqa: F401  fills the table
            from optimum.exporters.tasks import TasksManager

            known = TasksManager.get_supported_tasks_for_model_type(
                job.model.config.model_type, "onnx", library_name="transformers"
            )
        except KeyError:
            return f"it does not know {job.model.config.model_type}"
        except (ImportError, ValueError) as error:
            return few_lines(error)
        if _task(job) not in known:
            return f"it does not know {job.model.config.model_type} for {_task(job)}"
        return ""

    def export(self, job: Job, part: Part) -> ir.Model:
        """Exports into a folder and loads what is there."""
        from optimum.exporters.onnx import onnx_export_from_model

        folder = job.work / "optimum"
        with user_code(wrap=lambda error: ExportFailedError(few_lines(error))):
            onnx_export_from_model(
                job.model, folder, opset=job.opset, task=_task(job), do_validation=False
            )
        files = sorted(path.name for path in folder.glob("*.onnx"))
        if files != ["model.onnx"]:
            raise ExportFailedError(f"it made {', '.join(files) or 'no file'}, not model.onnx")
        return load_model(folder / "model.onnx")


def installed() -> bool:
    """True if optimum's ONNX exporter can be imported."""
    try:
        return importlib.util.find_spec("optimum.exporters.onnx") is not None
    except ModuleNotFoundError:
        return False


def _task(job: Job) -> str:
    return job.task + "-with-past" * (job.task == "text-generation")
