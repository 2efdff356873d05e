"""
Does with psycopg what each line of standard input asks for, and answers with one line: {"id", "answer"} or {"id", "error"}.
A request is {"id", "session", "call", ...}; each session has a thread, so that a cancel can overtake what runs.
Values go back as plain data that keeps their Python type; long ones as a hash.
"""

import base64
import datetime
import decimal
import hashlib
import ipaddress
import json
import queue
import re
import sys
import threading
import uuid

import psycopg
from psycopg.rows import tuple_row

LONG = 2000
write_lock = threading.Lock()
FIELDS = (
    "severity_nonlocalized sqlstate message_primary message_detail message_hint statement_position internal_position "
    "internal_query context schema_name table_name column_name datatype_name constraint_name source_file source_line "
    "source_function"
).split()


def plain(value):
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return value if len(value) <= LONG else {"characters": len(value), "sha256": digest(value.encode())}
    if isinstance(value, (bytes, bytearray, memoryview)):
        raw = bytes(value)
        return {"hex": raw.hex()} if len(raw) <= LONG else {"bytes": len(raw), "sha256": digest(raw)}
    if isinstance(value, (list, tuple)):
        seen = [plain(each) for each in value]
        if len(seen) <= LONG:
            return seen
        return {"items": len(seen), "first": seen[0], "last": seen[-1], "sha256": digest(json.dumps(seen).encode())}
    if isinstance(value, dict):
        return {"dict": {key: plain(each) for key, each in value.items()}}
    if isinstance(value, int):
        return value if abs(value) < 2**53 else {"int": str(value)}
    return {type(value).__name__: repr(value)}


def digest(raw):
    return hashlib.sha256(raw).hexdigest()


def failure(error):
    seen = {"kind": type(error).__name__, "message": str(error)}
    diagnostic = getattr(error, "diag", None)
    if diagnostic is not None:
        for field in FIELDS:
            seen[field] = getattr(diagnostic, field)
        seen["code"] = diagnostic.sqlstate
    return seen


def adapt(text, values):
    """$1 becomes psycopg's %s; without values the text goes out as it is."""
    if values is None:
        return text, None
    return re.sub(r"\$(\d+)", lambda match: f"%(p{match[1]})s", text.replace("%", "%%")), {
        f"p{n + 1}": value for n, value in enumerate(values)
    }


def result(cursor):
    columns = [[each.name, each.type_code if each.type_code < 16384 else "user"] for each in cursor.description or []]
    rows = cursor.fetchall() if cursor.description is not None else []
    return {"status": cursor.statusmessage, "count": cursor.rowcount, "columns": columns, "rows": plain(rows)}


class Session:
    def __init__(self, options):
        self.connection = psycopg.connect(autocommit=True, row_factory=tuple_row, **options)
        self.heard = []
        self.notified = []
        self.connection.add_notify_handler(lambda note: self.heard.append({"channel": note.channel, "payload": note.payload}))
        self.connection.add_notice_handler(
            lambda diagnostic: self.notified.append({field: getattr(diagnostic, field) for field in FIELDS})
        )

    def query(self, text, values=None, prepare=None):
        text, values = adapt(text, values)
        return result(self.connection.cursor().execute(text, values, prepare=prepare))

    def script(self, text):
        cursor = self.connection.cursor().execute(text)
        results = [result(cursor)]
        while cursor.nextset():
            results.append(result(cursor))
        return results

    def prepared(self, name, text, values):
        return self.query(text, values, prepare=True)

    def pipeline(self, statements):
        cursors = []
        try:
            with self.connection.pipeline():
                for statement in statements:
                    text, values = adapt(statement["text"], statement.get("values") or [])
                    cursors.append(self.connection.cursor().execute(text, values))
        except psycopg.Error as error:
            return {"failed": failure(error)}
        return [result(cursor) for cursor in cursors]

    def cursor(self, text, values, size, batches):
        text, values = adapt(text, values)
        read = []
        with self.connection.transaction():
            with self.connection.cursor(name="walk") as cursor:
                cursor.execute(text, values)
                while batches is None or len(read) < batches:
                    rows = cursor.fetchmany(size)
                    if not rows:
                        break
                    read.append(plain(rows))
        return read

    def copyIn(self, text, chunks):
        cursor = self.connection.cursor()
        with cursor.copy(text) as copy:
            for chunk in chunks:
                copy.write(base64.b64decode(chunk))
        return cursor.rowcount

    def copyInGivenUp(self, text, chunks):
        with self.connection.cursor().copy(text) as copy:
            for chunk in chunks:
                copy.write(base64.b64decode(chunk))
            raise RuntimeError("given up")

    def copyOut(self, text):
        with self.connection.cursor().copy(text) as copy:
            return {"base64": base64.b64encode(b"".join(bytes(chunk) for chunk in copy)).decode()}

    def listen(self, channel):
        self.connection.execute(f"listen {channel}")
        return None

    def hear(self):
        # Notifications are noticed with the next answer.
        self.connection.execute("select 1")
        return self.heard

    def notices(self):
        return self.notified

    def transaction(self, statements, isolation, readOnly):
        level = isolation and psycopg.IsolationLevel[isolation.replace(" ", "_").upper()]
        self.connection.isolation_level = level or None
        self.connection.read_only = readOnly
        try:
            with self.connection.transaction():
                return [self.query(each["text"], each.get("values")) for each in statements]
        finally:
            self.connection.isolation_level = None
            self.connection.read_only = None

    def close(self):
        self.connection.close()


class Worker:
    def __init__(self):
        self.requests = queue.Queue()
        self.session = None
        threading.Thread(target=self.work, daemon=True).start()

    def work(self):
        while True:
            request = self.requests.get()
            arguments = {key: value for key, value in request.items() if key not in ("id", "session", "call")}
            try:
                if request["call"] == "open":
                    self.session = Session(arguments["options"])
                    answer(request, {"answer": None})
                else:
                    answer(request, {"answer": getattr(self.session, request["call"])(**arguments)})
            except Exception as error:
                answer(request, {"error": failure(error)})


def answer(request, body):
    with write_lock:
        print(json.dumps({"id": request["id"], **body}), flush=True)


workers = {}
for line in sys.stdin:
    asked = json.loads(line)
    worker = workers.setdefault(asked["session"], Worker()) if asked["session"] not in workers else workers[asked["session"]]
    if asked["call"] == "cancel":
        worker.session.connection.cancel()
        answer(asked, {"answer": None})
    else:
        worker.requests.put(asked)
