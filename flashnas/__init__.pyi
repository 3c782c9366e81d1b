"""What type checkers see of the lazily loaded names in __init__.py."""

from flashnas.api.compare import compare as compare
from flashnas.api.doctor import doctor as doctor
from flashnas.api.estimate import estimate as estimate
from flashnas.api.evaluate import evaluate as evaluate
from flashnas.api.evidence import evidence as evidence
from flashnas.api.export import export as export
from flashnas.api.listing import list_names as list_names
from flashnas.api.measure import profile as profile
from flashnas.api.run import Run as Run
from flashnas.api.run import load_run as load_run
from flashnas.api.run import report as report
from flashnas.api.search import search as search
from flashnas.api.train import train as train
from flashnas.api.validate import validate as validate
from flashnas.architecture.architecture import Architecture as Architecture
from flashnas.architecture.source import load_architecture as load_architecture
from flashnas.base.errors import FlashnasError as FlashnasError
from flashnas.latency.metrics import Budget as Budget
from flashnas.latency.table import LatencyTable as LatencyTable
from flashnas.latency.workload import Workload as Workload
from flashnas.loss.load import loss_model as loss_model
from flashnas.loss.prediction import Prediction as Prediction
from flashnas.network.model import HybridLM as HybridLM
from flashnas.observations.losses import ObservedLoss as ObservedLoss
from flashnas.observations.observation import Observation as Observation
from flashnas.observations.times import ObservedTime as ObservedTime
from flashnas.run_folder.recorded_run import Answer as Answer
from flashnas.space.base import SearchSpace as SearchSpace
from flashnas.space.load import load_space as load_space
from flashnas.study.scorer import Scorer as Scorer
from flashnas.training.recipe import Recipe as Recipe
from flashnas.trials.trial import Trial as Trial

__version__: str
GONE: dict[str, str]
