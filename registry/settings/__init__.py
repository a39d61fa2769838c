"""Settings from the environment (MODKERNEL_…) and from one TOML file; secrets stay masked."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote
from urllib.request import url2pathname

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from modkernel.data.places import DataPlaces
from modkernel.errors import SettingsError
from modkernel.registry.settings.data_paths import DataPaths, whole_path
from modkernel.registry.settings.rights import close_home, ensure_writable

FILE_VARIABLE = "MODKERNEL_SETTINGS"
DEFAULT_HOME = "~/.modkernel"
UNFIT = "%?#"
"""What no place in a URL may hold: databases and artifacts are named by URLs, which read these."""
SECRET = re.compile(r"([?&][^=&]*(?:pass|pwd|secret|token)[^=&]*=)[^&#]*", re.IGNORECASE)
"""A value in a URL's query that nobody may see, after its name."""
DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
"""Driver by the scheme that people write."""


class Settings(BaseSettings):
    """Where things are and how much may be used.

    A value comes from the argument, else from the environment variable MODKERNEL_<NAME>, else
    from the settings file (MODKERNEL_SETTINGS, or settings.toml in the home), else the default.

    Raises:
        SettingsError: a value is not allowed, or the settings file cannot be read.
    """

    model_config = SettingsConfigDict(
        env_prefix="MODKERNEL_",
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
    )

    home: Path = Field(
        Path(DEFAULT_HOME),
        validate_default=True,
        description="Folder of everything that is stored.",
    )
    database_url: SecretStr | None = Field(
        None, description="sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME."
    )
    mlflow_uri: str = Field(
        default_factory=lambda known: f"sqlite:///{known['home'] / 'mlflow.db'}",
        repr=False,
        description="MLflow's tracking URI; a SQLite file in the home if left out.",
    )
    mlflow_store: str = Field(
        default_factory=lambda known: f"sqlite:///{known['home'] / 'mlflow.db'}",
        repr=False,
        description="Database of the MLflow server that 'up --host' runs; a SQLite file in the "
        "home if left out. Where it is set, moved aliases are looked for in it.",
    )
    artifact_root: Path = Field(
        default_factory=lambda known: known["home"] / "artifacts",
        description="Folder of MLflow's artifacts.",
    )
    experiment: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="MLflow experiment of all runs, such as a project's name; the name of each "
        "run's data set if left out.",
    )
    data_root: Path = Field(
        default_factory=lambda known: known["home"] / "data",
        description="Folder of torchvision's data sets.",
    )
    download: bool = Field(True, description="Fetch data sets that are missing.")
    data_paths: DataPaths = Field(
        (),
        description="This machine's paths of data that specs know by a name: NAME=PATH, with "
        "commas between, or a table [data_paths] in the settings file.",
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    spread: Literal["auto", "always", "never"] = Field(
        "auto",
        description="Whether modules are trained on the machines of the team that the Prefect "
        "server has: 'auto' sends what takes longer than the run itself costs.",
    )
    cpu_slots: int = Field(1, ge=1, description="Modules trained at once without a GPU.")
    lease_seconds: int = Field(30, ge=1, description="A claim that is not renewed ends after this.")
    outage_seconds: int = Field(
        120, ge=0, description="How long a database or MLflow that is away is waited for."
    )
    checkpoint_seconds: int = Field(
        300,
        ge=0,
        description="Between two copies of a checkpoint to MLflow's server, where another machine "
        "goes on from it; 0 sends none.",
    )
    devices_per_module: int = Field(
        1,
        ge=1,
        description="Devices of this machine that train one hidden module together: GPUs, or "
        "places of cpu_slots without one.",
    )
    resident_limit: int | None = Field(
        None,
        ge=0,
        description="Bytes of raw examples that are held in main memory, and on a GPU.",
    )
    feature_cache_bytes: int = Field(
        10 * 2**30, ge=0, description="Bytes of modules' features that are cached; 0 caches none."
    )
    keep_versions: int | None = Field(
        None,
        ge=1,
        description="'modkernel gc' deletes versions of a module that have no alias and that "
        "nothing stands on, but for so many of the newest of each name; none if not set.",
    )
    protected_aliases: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Aliases that certain people alone may move with modkernel, with commas "
        "between, as 'production:anna, production:otto': accounts of MLflow's server, or of this "
        "machine.",
    )
    trusted_packages: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Packages, with commas between, that what is stored may name: their code is "
        "run when such a module is loaded or its data are read.",
    )
    trusted_keys: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Public keys, or files of them, with commas between: only bundles that one of "
        "these signed are imported; any bundle if left out.",
    )
    mlflow_port: int = Field(5000, ge=1, le=65535)
    prefect_port: int = Field(4200, ge=1, le=65535)
    tls_certificate: Path | None = Field(
        None, description="PEM file of both servers of 'up --host': certificate, then its chain."
    )
    tls_key: Path | None = Field(None, description="PEM file of its private key.")

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SettingsError(_sentences(error)) from None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then the file."""
        home = init_settings().get("home") or env_settings().get("home") or DEFAULT_HOME
        path = _settings_file(Path(home))
        try:
            from_file = TomlConfigSettingsSource(settings_cls, path)
        except (OSError, ValueError, RecursionError) as error:
            raise SettingsError(
                f"Cannot read the settings file {path}: {error}. Fix it, or unset {FILE_VARIABLE}."
            ) from None
        return init_settings, env_settings, from_file

    @field_validator("home", "artifact_root", "data_root", "tls_certificate", "tls_key")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return None if path is None else whole_path(path)

    @field_validator("home", "artifact_root")
    @classmethod
    def _fit_for_urls(cls, path: Path) -> Path:
        found = sorted(set(UNFIT) & set(str(path)))
        if found or not str(path).isprintable():
            what = f"'{found[0]}'" if found else "a character that cannot be printed"
            raise ValueError(
                f"{str(path)!r} has {what} in it, which URLs of databases and files read as "
                "something else: name a folder without it"
            )
        return path

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, url: SecretStr | None) -> SecretStr | None:
        return None if url is None else SecretStr(_with_driver(url.get_secret_value()))

    @field_validator("mlflow_uri", "mlflow_store")
    @classmethod
    def _known_driver(cls, uri: str) -> str:
        return _with_driver(uri) if uri.startswith("postgres") else uri

    @field_validator("trusted_packages", "trusted_keys", "protected_aliases", mode="before")
    @classmethod
    def _names(cls, given: object) -> object:
        if not isinstance(given, str):
            return given
        names = tuple(name for name in map(str.strip, given.split(",")) if name)
        if given.strip() and not names:  # Of keys, none would mean that everybody is trusted.
            raise ValueError(f"'{given.strip()}' names nothing: leave it out, or name something")
        return names

    @field_validator("trusted_packages")
    @classmethod
    def _top_level(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not name.isidentifier():
                raise ValueError(f"'{name}' is no top-level package: write it as 'mypackage'")
        return names

    @field_validator("protected_aliases")
    @classmethod
    def _named_people(cls, pairs: tuple[str, ...]) -> tuple[str, ...]:
        for pair in pairs:
            alias, colon, person = pair.partition(":")
            if not (alias and colon and person):
                raise ValueError(f"'{pair}' is not ALIAS:PERSON, such as 'production:anna'")
        return pairs

    @property
    def registry_url(self) -> str:
        """URL of the registry's database, with its password: never print it."""
        if self.database_url is None:
            return f"sqlite:///{self.home / 'registry.db'}"
        return self.database_url.get_secret_value()

    @property
    def places(self) -> DataPlaces:
        """Where data sets are."""
        paths = dict(self.data_paths)
        return DataPlaces(self.data_root, self.cache_dir, self.download, paths)

    @property
    def work_dir(self) -> Path:
        """Folder of jobs and checkpoints."""
        return self.home / "work"

    @property
    def cache_dir(self) -> Path:
        """Folder of what can be made again."""
        return self.home / "cache"

    @property
    def features_dir(self) -> Path:
        """Folder of modules' features that are cached for the next question."""
        return self.cache_dir / "features"

    @property
    def slots_dir(self) -> Path:
        """Folder of the devices' lock files."""
        return self.home / "slots"

    def public(self) -> dict[str, Any]:
        """All settings, JSON-clean, with passwords masked: what may be printed."""
        values = self.model_dump(mode="json")
        return values | {
            "database_url": masked(self.registry_url),
            "mlflow_uri": masked(self.mlflow_uri),
            "data_paths": dict(values["data_paths"]),
            "mlflow_store": masked(self.mlflow_store),
        }

    def ensure_home(self) -> None:
        """Make the home's folders, open to their owner alone whatever the umask.

        What others may enter or read there, such as in a home that was made before this was
        so, is closed to them. What is not modkernel's is left alone.

        Raises:
            SettingsError: the home cannot be made or written to.
        """
        ensure_writable(self.home, "home folder", "MODKERNEL_HOME", private=True)
        close_home(self.home)
        for folder in (self.work_dir, self.cache_dir, self.slots_dir):
            ensure_writable(folder, "home folder", "MODKERNEL_HOME", private=True)
        # A server's artifacts are its own affair.
        if not self.mlflow_uri.startswith("http"):
            ensure_writable(
                self.artifact_root,
                "artifact folder",
                "MODKERNEL_ARTIFACT_ROOT",
                private=self.artifact_root.is_relative_to(self.home),
            )


def masked(url: str) -> str:
    """A URL without its passwords, before the '@' and in its query."""
    try:
        shown = make_url(url).render_as_string(hide_password=True)
        # A file's name is shown as it is, with its umlauts.
        return unquote(shown) if shown.startswith("sqlite:") else without_secrets(shown)
    except (ArgumentError, ValueError):
        return "(not a URL)"


def without_secrets(url: str) -> str:
    """A URL with the passwords and tokens of its query masked, else as it is."""
    return SECRET.sub(r"\1***", url)


def sqlite_path(url: str) -> Path | None:
    """File of a SQLite URL, none for another database."""
    if not url.startswith("sqlite:///"):
        return None
    database = make_url(url).database
    return Path(url2pathname(database)) if database else None


def _with_driver(url: str) -> str:
    """A database URL with the driver that is installed with us."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # the latter quotes what stands where a port should
        raise ValueError("write it as postgresql://USER:PASSWORD@HOST/NAME") from None
    backend = parsed.get_backend_name()
    if backend not in DRIVERS or (backend == "sqlite" and not parsed.database):
        raise ValueError("use sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME")
    return parsed.set(drivername=DRIVERS[backend]).render_as_string(hide_password=False)


def _settings_file(home: Path) -> Path | None:
    named = os.environ.get(FILE_VARIABLE)
    what = "home" if named is None else FILE_VARIABLE
    try:
        path = whole_path(home if named is None else Path(named))
    except ValueError as error:
        raise SettingsError(f"Setting '{what}': {error}.") from None
    if named is None:
        path /= "settings.toml"
        return path if path.is_file() else None
    if not path.is_file():
        raise SettingsError(
            f"The settings file {path} does not exist: correct {FILE_VARIABLE}, or unset it."
        )
    return path


def _sentences(error: ValidationError) -> str:
    sentences = []
    for detail in error.errors(include_url=False, include_input=False, include_context=False):
        if detail["type"] == "default_factory_not_called":  # a consequence of another error
            continue
        name = ".".join(str(part) for part in detail["loc"]) or "settings"
        message = detail["msg"].removeprefix("Value error, ")
        if detail["type"] == "extra_forbidden":
            message = f"no such setting; there are {', '.join(Settings.model_fields)}"
        sentences.append(f"Setting '{name}': {message}.")
    return " ".join(sentences)
