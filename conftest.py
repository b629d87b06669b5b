"""What every test process needs before torch or a kernel starts; notebooks are tests too, so this lies at the root."""

import os
import tempfile

os.environ.setdefault("TITANS_FAST", "1")  # small sizes in notebooks
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers on two cores
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")  # our kernel, not one of the same name in the person's home

_private = tempfile.TemporaryDirectory(prefix="titans-ipython-", ignore_cleanup_errors=True)
os.environ.setdefault("IPYTHONDIR", _private.name)  # no start-up files and no history of the person running this
