"""Addresses in other drivers' syntax, and what libpq is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from entrypoint.database import drivers
from entrypoint.database.translation import Translation, Untranslatable, translate

if TYPE_CHECKING:
    from collections.abc import Mapping


def read(address: str, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return libpq's parameters without the user, host and database that all these addresses share."""
    translation = translate(address)
    assert translation is not None
    found = translation.complete(conninfo_to_dict(translation.address), environ or {})
    return {name: value for name, value in found.items() if (name, value) not in BASIC.items()}


BASIC = {"user": "u", "host": "h", "dbname": "d"}
PLAIN = "postgresql://u@h/d?"
JDBC = "jdbc:postgresql://h/d?user=u&"
ASYNCPG = "postgresql+asyncpg://u@h/d?"
PSYCOPG = "postgresql+psycopg://u@/d?"

ADDRESSES: dict[str, dict[str, str]] = {
    # The driver's name.
    "postgresql+psycopg://u@h/d": {},
    "postgresql+psycopg2://u:p%40q@h:5433/d": {"password": "p@q", "port": "5433"},
    "postgres+asyncpg://u@h/d": {},
    "postgresql+psycopg_async://u@h/d?sslmode=require": {"sslmode": "require"},
    "postgis://u:@h/d": {},
    "pgx5://u@h/d?x-migrations-table=v": {},
    "ecto://u@h/d?pool_size=10": {},
    "postgresql+pg8000://u:a%2Bb+c@h/d": {"password": "a+b+c"},
    "postgresql+psycopg://u@[::1]:1/d": {"host": "::1", "port": "1"},
    "postgresql+psycopg://u@a:1,b:2/d": {"host": "a,b", "port": "1,2"},
    "postgresql+psycopg://u:p?schema=q@h/d": {"password": "p?schema=q"},
    "postgresql+psycopg://u@%2Frun%2Fpg/d": {"host": "/run/pg"},
    # Hosts in the query.
    PSYCOPG + "host=/run/pg": {"host": "/run/pg"},
    PSYCOPG + "host=a:1&host=b:2": {"host": "a,b", "port": "1,2"},
    PSYCOPG + "host=a&host=b": {"host": "a,b"},
    PSYCOPG + "host=a&host=b:2": {"host": "a,b", "port": ",2"},
    PSYCOPG + "host=a:1": {"host": "a", "port": "1"},
    PSYCOPG + "host=a,b&port=1,2": {"host": "a,b", "port": "1,2"},
    PSYCOPG + "host=::1": {"host": "::1"},
    PSYCOPG + "host=/cloudsql/p:r:i": {"host": "/cloudsql/p:r:i"},
    "postgresql+pg8000://u@/d?unix_sock=/cloudsql/p:r:i/.s.PGSQL.5432": {"host": "/cloudsql/p:r:i", "port": "5432"},
    "postgresql://u@localhost/d?host=/run/pg&schema=a": {"host": "/run/pg", "options": '-csearch_path="a"'},
    # JDBC
    "jdbc:postgresql://h/d?user=u&password=a%26b": {"password": "a&b"},
    "jdbc:postgresql://h/d?user=u&password=a+b%2B=": {"password": "a b+="},
    "jdbc:postgresql://a:1,b:2/d?user=u": {"host": "a,b", "port": "1,2"},
    "jdbc:postgresql://[::1]:1/d?user=u": {"host": "::1", "port": "1"},
    "jdbc:postgresql:d?user=u": {"host": "localhost"},
    "jdbc:postgresql:/": {"host": "localhost"},
    "jdbc:postgresql://h?user=a@b&password=c@/d": {"user": "a@b", "password": "c@/d"},
    "jdbc:postgresql://u:p@h/d": {"password": "p"},
    JDBC + "service=s": {"service": "s"},
    "jdbc:postgresql:///d?service=s&user=u": {"service": "s"},
    JDBC + "loggerLevel=OFF&prepareThreshold=0&reWriteBatchedInserts=true&ApplicationName=a&socketTimeout=3": {},
    JDBC + "connectTimeout=3": {"connect_timeout": "3"},
    JDBC + "targetServerType=primary": {"target_session_attrs": "read-write"},
    JDBC + "targetServerType=preferSecondary": {"target_session_attrs": "prefer-standby"},
    JDBC + "readOnly=false": {},
    JDBC + "kerberosServerName=pg&gssEncMode=disable": {"krbsrvname": "pg", "gssencmode": "disable"},
    # TLS: never weaker than a known driver would make it.
    JDBC + "ssl=true": {"sslmode": "verify-full"},
    JDBC + "ssl": {"sslmode": "verify-full"},
    JDBC + "ssl=false": {},
    JDBC + "ssl=true&sslmode=require": {"sslmode": "require"},
    JDBC + "sslmode=verify-ca&sslrootcert=/ca": {"sslmode": "verify-ca", "sslrootcert": "/ca"},
    JDBC + "ssl=true&sslrootcert=/ca": {"sslmode": "verify-full", "sslrootcert": "/ca"},
    JDBC + "ssl=true&sslfactory=org.postgresql.ssl.NonValidatingFactory": {"sslmode": "require"},
    JDBC + "sslmode=verify-full&sslfactory=org.postgresql.ssl.NonValidatingFactory": {"sslmode": "verify-full"},
    JDBC + "ssl=true&sslfactory=org.postgresql.ssl.LibPQFactory": {"sslmode": "verify-full"},
    JDBC + "ssl=true&sslfactory=org.postgresql.ssl.DefaultJavaSSLFactory": {
        "sslmode": "verify-full",
        "sslrootcert": "system",
    },
    JDBC + "sslmode=require&sslfactory=org.postgresql.ssl.DefaultJavaSSLFactory": {
        "sslmode": "verify-full",
        "sslrootcert": "system",
    },
    JDBC + "sslcert=/c&sslkey=/k.pk8&sslpassword=p": {"sslcert": "/c", "sslkey": "/k.pk8", "sslpassword": "p"},
    ASYNCPG + "ssl=require": {"sslmode": "require"},
    ASYNCPG + "ssl=verify-full": {"sslmode": "verify-full"},
    ASYNCPG + "ssl=true": {"sslmode": "verify-full", "sslrootcert": "system"},
    ASYNCPG + "ssl=true&sslrootcert=/ca": {"sslmode": "verify-full", "sslrootcert": "/ca"},
    ASYNCPG + "ssl=require&sslmode=verify-full": {"sslmode": "verify-full"},
    ASYNCPG + "ssl=verify-full&sslmode=disable": {"sslmode": "verify-full"},
    ASYNCPG + "prepared_statement_cache_size=0&statement_cache_size=0&timeout=3": {},
    PLAIN + "ssl=no-verify": {"sslmode": "require"},
    PLAIN + "sslmode=no-verify": {"sslmode": "require"},
    PLAIN + "sslmode=verify-full&uselibpqcompat=true": {"sslmode": "verify-full"},
    # As libpq reads it, if nothing else is known.
    PLAIN + "ssl=true&max=5": {"sslmode": "require"},
    PLAIN + "sslaccept=strict": {"sslmode": "verify-full", "sslrootcert": "system"},
    PLAIN + "sslaccept=strikt": {"sslmode": "verify-full", "sslrootcert": "system"},
    PLAIN + "sslaccept=strict&sslmode=require": {"sslmode": "verify-full", "sslrootcert": "system"},
    PLAIN + "sslaccept=strict&sslmode=disable": {"sslmode": "disable"},
    PLAIN + "sslaccept=strict&sslcert=/ca": {"sslmode": "verify-full", "sslrootcert": "/ca"},
    PLAIN + "sslaccept=accept_invalid_certs&sslmode=require": {"sslmode": "require"},
    PLAIN + "sslaccept=accept_invalid_certs&sslmode=verify-full": {"sslmode": "verify-full"},
    PLAIN + "schema=a&sslmode=require&sslcert=/ca": {"sslmode": "require", "options": '-csearch_path="a"'},
    PLAIN + "schema=a&sslcert=/c&sslkey=/k": {"sslcert": "/c", "sslkey": "/k", "options": '-csearch_path="a"'},
    PLAIN + "max=5&sslcert=/c": {"sslcert": "/c"},
    # Parameters that are left out.
    PLAIN + "pgbouncer=true&connection_limit=1&pool_timeout=0&connect_timeout=0": {"connect_timeout": "0"},
    PLAIN + "pool=5&prepared_statements=false&encoding=unicode&timeout=5000&sslmode=disable": {"sslmode": "disable"},
    PLAIN + "pool_max_conns=10&default_query_exec_mode=simple_protocol&binary_parameters=yes": {},
    PLAIN + "fallback_application_name=f&statement_timeout=3&": {"fallback_application_name": "f"},
    PLAIN + "serverVersion=16&charset=utf8": {},
    PLAIN + "conn_max_age=600&ssl_require=true": {"sslmode": "require"},
    PLAIN + "statement-cache-capacity=0&ssl-mode=require&ssl-ca=/ca": {"sslmode": "require", "sslrootcert": "/ca"},
    # The schema.
    PLAIN + "schema=public": {"options": '-csearch_path="public"'},
    PLAIN + "schema=Shop": {"options": '-csearch_path="Shop"'},
    PLAIN + "schema=a%22b": {"options": '-csearch_path="a""b"'},
    PLAIN + "schema=a+b%5C": {"options": '-csearch_path="a\\ b\\\\"'},
    PLAIN + "schema=a=b": {"options": '-csearch_path="a=b"'},
    PLAIN + "schema=a,b": {"options": '-csearch_path="a,b"'},
    PLAIN + "schema=": {},
    PLAIN + "search_path=a,%22B%22": {"options": '-csearch_path=a,"B"'},
    PLAIN + "schema_search_path=a,%20b": {"options": "-csearch_path=a,\\ b"},
    PLAIN + "options%5Bsearch_path%5D=a": {"options": "-csearch_path=a"},
    JDBC + 'currentSchema=a,"B"': {"options": '-csearch_path=a,"B"'},
    PLAIN + "schema=a&options=-csearch_path%3Db": {"options": '-csearch_path=b -csearch_path="a"'},
    PLAIN + "options=-csearch_path%3Db%20-cjit%3Doff&schema=a": {
        "options": '-csearch_path=b -cjit=off -csearch_path="a"'
    },
    # Only libpq accepts a second =.
    PLAIN + "options=-csearch_path=a": {"options": "-csearch_path=a"},
    PLAIN + "password=YWI=": {"password": "YWI="},
    PLAIN + "sslmode=require&": {"sslmode": "require"},
    # Names and values, which Go's drivers also read.
    "host=h user=u dbname=d TimeZone=Asia/Shanghai sslmode=disable": {"sslmode": "disable"},
    "host=h user=u database=d search_path = a,b": {"options": "-csearch_path=a,b"},
    "host=h user=u dbname=d password='a \\'b' pool_max_conns=3": {"password": "a 'b"},
    "host=h user=u dbname=d sslmode=no-verify password=": {"sslmode": "require", "password": ""},
}


@pytest.mark.case("C6")
@pytest.mark.parametrize("address", ADDRESSES)
def test_what_libpq_is_given(address: str) -> None:
    assert read(address) == ADDRESSES[address]


@pytest.mark.parametrize(
    "address",
    [
        "",
        "postgresql://u:p@h/d",
        "postgres://h/d?sslmode=require&options=-cjit%3Doff&host=%2Frun",
        "postgresql://h/d?no_such_option=1",
        "postgresql://h/d?a+b=1",
        "postgresql:///d",
        "host=h dbname=d",
        "host=h dbname='d",
        "mysql://u@h/d?schema=a",
        "redis://h/0",
        "127.0.0.1:5432/d",
        "d",
        "Host=h;Database=d;Search Path=a",
        "postgresql+://h/d",
        "postgresql+a b://h/d",
    ],
)
def test_what_is_no_other_drivers_is_left_alone(address: str) -> None:
    assert translate(address) is None


@pytest.mark.parametrize(
    ("address", "named"),
    [
        (PLAIN + "sslidentity=/i.p12&schema=a", "sslidentity"),
        (JDBC + "socketFactory=a.B", "socketFactory"),
        (JDBC + "sslfactory=org.postgresql.ssl.SingleCertValidatingFactory", "sslfactory"),
        (JDBC + "sslfactoryarg=file:/ca", "sslfactoryarg"),
        (JDBC + "sslhostnameverifier=a.B", "sslhostnameverifier"),
        (JDBC + "sslkey=/k.p12", "sslkey"),
        (JDBC + "authenticationPluginClassName=a.B", "authenticationPluginClassName"),
        (JDBC + "targetServerType=best", "targetServerType"),
        (JDBC + "readOnly=true", "readOnly"),
        (JDBC + "ssl=sometimes", "ssl"),
        (PLAIN + "role=owner", "role"),
        (PLAIN + "schema=a%00b", "schema"),
        ("host=h role=owner", "role"),
        (PLAIN + "sslinline=true", "sslinline"),
        (ASYNCPG + "server_settings=x", "server_settings"),
        ("postgresql+pg8000://u@/d?unix_sock=/run/pg", "unix_sock"),
    ],
)
def test_what_cannot_be_left_out_is_refused_by_name(address: str, named: str) -> None:
    with pytest.raises(Untranslatable) as refused:
        translate(address)
    assert f" {named}" in refused.value.fault
    assert refused.value.remedy


def test_options_of_the_environment_are_kept() -> None:
    environ = {"PGOPTIONS": "-cjit=off"}
    assert read(PLAIN + "schema=a", environ) == {"options": '-cjit=off -csearch_path="a"'}
    assert read(PLAIN + "schema=a&options=-cgeqo%3Doff", environ) == {"options": '-cgeqo=off -csearch_path="a"'}
    assert read(PLAIN + "max=1", environ) == {}


def test_a_root_certificate_of_the_environment_is_kept() -> None:
    assert read(PLAIN + "sslaccept=strict", {"PGSSLROOTCERT": "/ca"}) == {"sslmode": "verify-full"}


def test_the_words_have_no_value_in_them() -> None:
    secret = "Quokka"
    translation = translate(f"postgresql+asyncpg://u:{secret}@h/d?schema={secret}&timeout={secret}&ssl=require")
    assert isinstance(translation, Translation)
    assert translation.words == "postgresql+asyncpg:// read as postgresql://; schema, ssl translated; timeout left out"


def test_libpq_has_none_of_the_names_in_the_table() -> None:
    """If libpq had one, libpq would decide, or nobody."""
    assert not {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()} & drivers.PARAMETERS.keys()


def test_what_is_renamed_is_known_to_libpq() -> None:
    known = {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()}
    assert known >= set(drivers.RENAMED.values())
