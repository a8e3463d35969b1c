"""Tables of ``clusters.toml`` as frozen classes: pydantic reads a file by their annotations, and finds every mistake.

A table is a dataclass below :class:`Section` whose fields are its keys. A field's annotation holds the
:class:`~federation.core.config.types.Value` that reads it, and what to do where it is missing (:class:`Needed`); the
text below the field says what it means. The reference page, the check of the example file and the schema for editors
come from the same classes. No value in an annotation may have the name of a key of its class: that one comes first.

Pydantic checks nothing between fields while one of them is wrong. So a file with mistakes is read a second time, and
keys that cannot be used are left out: :func:`read_tables` returns either whole tables or, with the findings, tables
in which such a key raises :class:`~federation.core.config.mistakes.DependsOnMistake` where a rule asks for it.

No message of pydantic's is passed on as it is: it may repeat what the file holds, which may be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Final,
    TypeVar,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from federation.core.config.mistakes import (
    DependsOnMistake,
    Findings,
    describe,
    nearest,
    printable,
    suggestion,
)
from federation.core.config.types import MISTAKE, Array, ReadingContext, Value, mistake, mistakes_at, one_of
from federation.core.errors import InvalidValue

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, TypeAdapter
    from pydantic_core import ErrorDetails, core_schema

_INDEX: Final = re.compile(r"\[\d+\]")
_OF_THE_TAG: Final = ""
"""In the place of a mistake, where pydantic puts the form of a table that has several: it has no form yet."""


class Section:
    """Base of every table: a key that is none of its fields is a mistake."""

    __slots__ = ()
    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid", "hide_input_in_errors": True}


S = TypeVar("S", bound=Section)


@dataclass(frozen=True, slots=True)
class Needed:
    """What to say of a key that has no default and is missing."""

    remedy: str
    problem: str = "is missing"


@dataclass(frozen=True, slots=True)
class Tables:
    """An array of tables, ``[[header]]``."""

    header: str

    def check(self, value: object) -> object:
        """As pydantic calls it, before the tables are read."""
        if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
            raise mistake("must be an array of tables", f"write [[{self.header}]] above each")
        return value

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        from pydantic_core import core_schema

        return core_schema.no_info_before_validator_function(self.check, handler(source))


@dataclass(frozen=True, slots=True, eq=False)
class Forms:
    """A table of several forms; the value of the key ``tag`` says which one it has.

    ``of_others`` gives problem and remedy of a key that only other forms have: from the form, and those that have it.
    """

    tag: str
    forms: Mapping[str, type[Section]]
    default: str = ""
    missing: Needed | None = None
    of_others: Callable[[str, list[str]], tuple[str, str]] | None = None

    @property
    def keys(self) -> dict[str, list[str]]:
        """Every key of the forms, with the forms that have it."""
        found: dict[str, list[str]] = {}
        for form, section in self.forms.items():
            for key in keys_of(section):
                found.setdefault(key, []).append(form)
        return found

    def check(self, value: object) -> object:
        """As pydantic calls it, before the table is read: without a form its keys cannot be judged."""
        if not isinstance(value, dict):
            return value  # which is found by what reads the form
        wrong = None
        if self.tag in value:
            try:
                one_of(self.forms)(value[self.tag])
            except InvalidValue as error:
                wrong = mistake(error.what, error.remedy)
        elif self.missing is not None:
            wrong = mistake(self.missing.problem, self.missing.remedy)
        if wrong is None:
            return value
        # where no form can be meant by leaving the tag out, a key of none of them is a mistake all the same
        unknown = [name for name in value if name not in self.keys] if self.missing is not None else []
        raise mistakes_at(
            ((_OF_THE_TAG, name), error)
            for name, error in (
                (self.tag, wrong),
                *((name, mistake(*_unknown(name, self.keys, ""))) for name in unknown),
            )
        )

    def schema(self, forms: Mapping[str, core_schema.CoreSchema]) -> core_schema.CoreSchema:
        """The table in one of its forms, each of which is read by the schema under its name."""
        from pydantic_core import core_schema

        def form_of(value: object) -> str:
            return str(value.get(self.tag, self.default)) if isinstance(value, dict) else next(iter(forms))

        return core_schema.no_info_before_validator_function(
            self.check, core_schema.tagged_union_schema(dict(forms), discriminator=form_of)
        )

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return self.schema({form: handler.generate_schema(section) for form, section in self.forms.items()})

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: Callable[[core_schema.CoreSchema], dict[str, Any]]
    ) -> dict[str, Any]:
        sections = list(dict.fromkeys(self.forms.values()))
        by_default = self.forms.get(self.default)
        return {
            "oneOf": [
                form if section is by_default else {"allOf": [form, {"required": [self.tag]}]}
                for section, form in zip(sections, handler(schema)["oneOf"], strict=True)
            ]
        }


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a table: how it is read, and what is below it where it is a table itself."""

    name: str
    value: Value[Any] | Array[Any] | None
    section: type[Section] | None
    forms: Forms | None
    tables: Tables | None
    needed: Needed | None
    default: Any  # MISSING where the key is required
    annotation: Any


def keys_of(section: type[Section]) -> Mapping[str, Key]:
    """The keys of a table, in the order in which they are documented."""
    return _keys(cast("Hashable", section))  # mypy: a class is not seen to be hashable


@cache
def _keys(section: Hashable) -> Mapping[str, Key]:
    hints = get_type_hints(section, include_extras=True)
    found = fields(cast("type[Any]", section))
    return {field.name: _key(field.name, hints[field.name], _default_of(field)) for field in found}


def _default_of(field: Any) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _key(name: str, annotation: Any, default: Any) -> Key:
    marks = annotation.__metadata__ if get_origin(annotation) is Annotated else ()
    plain = get_args(annotation)[0] if marks else annotation
    sections = [
        each for each in (plain, *get_args(plain)) if isinstance(each, type) and issubclass(each, Section)
    ]

    def mark(kind: Any) -> Any:
        return next((each for each in marks if isinstance(each, kind)), None)

    return Key(
        name=name,
        value=mark((Value, Array)),
        section=sections[0] if sections else None,
        forms=mark(Forms),
        tables=mark(Tables),
        needed=mark(Needed),
        default=default,
        annotation=annotation,
    )


@cache
def _adapter(section: Hashable) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter  # 0.2 s, which only who reads a file pays

    adapter: TypeAdapter[Any] = TypeAdapter(cast("Any", section))
    adapter.rebuild(raise_errors=True)  # a name that an annotation has and its module has not
    return adapter


def prepare_tables(section: type[Section]) -> None:
    """Make what :func:`read_tables` needs for the table and all below it, which is kept."""
    _adapter(cast("Hashable", section))


def read_tables(
    section: type[S], document: Mapping[str, object], context: ReadingContext, findings: Findings
) -> S:
    """The table and all below it. Where there are findings, what cannot be used raises Unread when it is asked for."""
    from pydantic_core import ValidationError

    try:
        return cast("S", _adapter(cast("Hashable", section)).validate_python(document, context=context))
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False)
    for each in wrong:
        findings.mistake(*_mistake(section, document, each))
    partial = _adapter(Annotated[section, _Partial(section)])
    return cast("S", partial.validate_python(document, context=context))


def _mistake(
    section: type[Section], document: Mapping[str, object], error: ErrorDetails
) -> tuple[str, str, str]:
    """The dotted key, the problem and the remedy of an error of pydantic's."""
    *parents, last = error["loc"]
    at = _Step(section, document)
    for part in parents:
        at = at.down(part)
    end = at.down(last)
    match error["type"]:
        case str() as kind if kind == MISTAKE:
            return end.path, error["ctx"]["problem"], error["ctx"]["remedy"]
        case "missing":
            needed = at.keys[str(last)].needed or Needed("see clusters.example.toml")
            return end.path, needed.problem, needed.remedy.replace("{table}", _INDEX.sub("", end.path))
        case "unexpected_keyword_argument":
            name = printable(str(last))
            return at.joined(name), *at.unknown(str(last))
        case "dataclass_type":
            return (
                end.path,
                f"must be a table, not {describe(end.value)}",
                f"write [{_INDEX.sub('', end.path)}]",
            )
        case _:
            return end.path, "cannot be used", "see clusters.example.toml"


class _Step:
    """Where an error is: the table's class, what the file holds there, and its dotted key."""

    def __init__(
        self,
        section: type[Section] | None,
        value: object,
        path: str = "",
        forms: Forms | None = None,
        form: str = "",
    ) -> None:
        self.section = section
        self.value = value
        self.path = path
        self.forms = forms
        self.form = form

    @property
    def keys(self) -> Mapping[str, Key]:
        return keys_of(self.section) if self.section else {}

    def joined(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def down(self, part: int | str) -> _Step:
        if isinstance(part, int):
            below = self.value[part] if isinstance(self.value, list) else None
            return _Step(self.section, below, f"{self.path}[{part}]")
        if (
            self.forms is not None and not self.form
        ):  # the form is a part of pydantic's place, and of no one else's
            return _Step(self.forms.forms.get(part), self.value, self.path, self.forms, part or "-")
        key = self.keys.get(part)
        below = self.value.get(part) if isinstance(self.value, dict) else None
        return _Step(key.section if key else None, below, self.joined(part), key.forms if key else None)

    def unknown(self, name: str) -> tuple[str, str]:
        known: Iterable[str] = self.keys
        if self.forms is not None and self.forms.of_others is not None:
            known = self.forms.keys
            if takers := self.forms.keys.get(name):
                return self.forms.of_others(self.form, takers)
        value = self.value.get(name) if isinstance(self.value, dict) else None
        return _unknown(name, known, self.path, value)


def _unknown(name: str, known: Iterable[str], path: str, value: object = None) -> tuple[str, str]:
    """What to say of a key that no table of that kind has."""
    known = list(known)
    near = nearest(name, known)
    written = near
    if isinstance(value, dict):
        written = f"[{_INDEX.sub('', f'{path}.{near}' if path else near)}]"
    elif isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        written = f"[[{_INDEX.sub('', f'{path}.{near}' if path else near)}]]"
    return "is not a key the hub knows", f"did you mean {written}?" if near else suggestion(name, known)


@dataclass(frozen=True, slots=True)
class _Partial:
    """Reads a table's keys that can be used and leaves the others out."""

    section: type[Section]

    def read(self, value: object, handler: core_schema.ValidatorFunctionWrapHandler) -> object:
        """As pydantic calls it: an instance without those attributes that are missing or wrong in the file."""
        read = handler(value)
        without: Any = type(self.section.__name__, (self.section,), {"__slots__": (), "__getattr__": _unread})
        table = object.__new__(without)
        for key in keys_of(self.section).values():
            if key.name in read:
                object.__setattr__(table, key.name, read[key.name])
            elif isinstance(value, dict) and key.name not in value and key.default is not MISSING:
                object.__setattr__(table, key.name, key.default)
        return table

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        from pydantic_core import core_schema

        found = {
            key.name: core_schema.typed_dict_field(
                core_schema.with_default_schema(self._schema(key, handler), on_error="omit"), required=False
            )
            for key in keys_of(self.section).values()
        }
        return core_schema.no_info_wrap_validator_function(
            self.read, core_schema.typed_dict_schema(found, extra_behavior="ignore")
        )

    @staticmethod
    def _schema(key: Key, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        from pydantic_core import core_schema

        def partial(section: type[Section]) -> core_schema.CoreSchema:
            return handler.generate_schema(Annotated[section, _Partial(section)])

        if key.forms is not None:
            return key.forms.schema({form: partial(section) for form, section in key.forms.forms.items()})
        if key.section is None:
            return handler.generate_schema(key.annotation)
        if key.tables is None:
            return partial(key.section)
        array = core_schema.tuple_variable_schema(partial(key.section))
        return core_schema.no_info_before_validator_function(key.tables.check, array)


def _unread(_: object, name: str) -> object:
    raise DependsOnMistake(name)
