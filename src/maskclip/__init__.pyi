from .clip.dense import DenseCLIP as DenseCLIP
from .errors import InputError as InputError
from .inference.labels import Prediction as Prediction
from .inference.predict import predict as predict
from .inference.predict import predict_labels as predict_labels
from .inference.predict import predict_logits as predict_logits
from .inference.protocol import Protocol as Protocol
from .models.maskclip import MaskCLIP as MaskCLIP
from .models.released import Released as Released
from .models.student import Student as Student
from .models.student import load_student as load_student
from .vocabulary import Vocabulary as Vocabulary

__version__: str
