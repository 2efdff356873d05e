/**
 * The extension pg_session_jwt, in SQL: what a session's JWT says, for policies of tables (`auth.user_id()` and others).
 *
 * Ballast verifies the JWT and hands its claims to the session as the parameter `pg_session_jwt.jwt`, which anybody may
 * set: `<MAC>.<process id>.<expiry>.<claims>`. Only what Ballast has signed for this very process is believed; the key
 * is in a file of the compute that functions owned by cloud_admin can read and tenants cannot (compute/claims-key.ts).
 * Sessions of other roles have the claims that PostgREST and its like set, as they do where there is no key at all.
 *
 * Functions that run as cloud_admin name nothing outside of pg_catalog. They are not parallel safe: a worker has a
 * process id of its own.
 */
import { readFile, rename, writeFile } from 'node:fs/promises';
import path from 'node:path';

const NAME = 'pg_session_jwt';
const VERSION = '0.5.0';

const CONTROL = `comment = 'what the JWT of a session says, for row-level security'
default_version = '${VERSION}'
relocatable = false
superuser = true
trusted = true
`;

const SCRIPT = `\\echo Use "CREATE EXTENSION ${NAME}" to load this file. \\quit

CREATE SCHEMA auth;
GRANT USAGE ON SCHEMA auth TO PUBLIC;

CREATE FUNCTION auth.session() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
  signed text := pg_catalog.current_setting('pg_session_jwt.jwt', true);
  message text := pg_catalog.substr(signed, 66);
  expiry text := pg_catalog.split_part(message, '.', 2);
  claims text;
  file jsonb := pg_catalog.pg_read_file(
    pg_catalog.regexp_replace(pg_catalog.current_setting('hba_file'), '[^/]*$', 'jwt.json'))::jsonb;
  mac text;
BEGIN
  IF signed IS NULL OR signed = '' THEN
    IF file -> 'roles' ? session_user::text THEN
      RETURN 'null'::jsonb;
    END IF;
    claims := pg_catalog.current_setting('request.jwt.claims', true);
    BEGIN
      RETURN coalesce(nullif(claims, ''), 'null')::jsonb;
    EXCEPTION WHEN data_exception THEN
      RETURN 'null'::jsonb;
    END;
  END IF;
  mac := pg_catalog.encode(pg_catalog.sha256(pg_catalog.decode(file ->> 'outer', 'hex')
    || pg_catalog.sha256(pg_catalog.decode(file ->> 'inner', 'hex') || pg_catalog.convert_to(message, 'UTF8'))), 'hex');
  IF mac || '.' IS DISTINCT FROM pg_catalog.left(signed, 65)
    OR pg_catalog.split_part(message, '.', 1) <> pg_catalog.pg_backend_pid()::text THEN
    RAISE check_violation USING MESSAGE = 'invalid JWT signature';
  END IF;
  IF expiry::numeric < EXTRACT(epoch FROM pg_catalog.transaction_timestamp()) THEN
    RAISE check_violation USING MESSAGE = 'Token used after it has expired';
  END IF;
  RETURN pg_catalog.substr(message, pg_catalog.length(pg_catalog.split_part(message, '.', 1) || expiry) + 3)::jsonb;
END
$function$;

CREATE FUNCTION auth.jwt() RETURNS jsonb LANGUAGE sql STABLE AS $function$ SELECT auth.session() $function$;

CREATE FUNCTION auth.user_id() RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
  subject jsonb := auth.session() -> 'sub';
BEGIN
  IF pg_catalog.jsonb_typeof(subject) = 'string' THEN
    RETURN subject #>> '{}';
  END IF;
  IF subject IS NOT NULL AND pg_catalog.current_setting('pg_session_jwt.jwt', true) <> '' THEN
    RAISE datatype_mismatch USING MESSAGE = 'invalid subject claim in the JWT';
  END IF;
  RETURN NULL;
END
$function$;

CREATE FUNCTION auth.uid() RETURNS uuid
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
  subject text := auth.user_id();
BEGIN
  RETURN CASE WHEN subject ~ '^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$' THEN subject::uuid END;
END
$function$;

CREATE FUNCTION auth.organization() RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
  organization jsonb := auth.session() -> 'o';
BEGIN
  RETURN CASE WHEN pg_catalog.jsonb_typeof(organization) = 'object' THEN organization END;
END
$function$;

CREATE FUNCTION auth.organization_id() RETURNS uuid
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
  id text := auth.organization() ->> 'id';
BEGIN
  RETURN CASE WHEN id ~ '^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$' THEN id::uuid END;
END
$function$;

CREATE FUNCTION auth.init() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
  IF pg_catalog.current_setting('pg_session_jwt.jwt', true) IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = '02000', MESSAGE = 'Missing runtime parameter: pg_session_jwt.jwk';
  END IF;
END
$function$;

CREATE FUNCTION auth.jwt_session_init(jwt text) RETURNS void
LANGUAGE plpgsql STRICT SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
  PERFORM pg_catalog.set_config('pg_session_jwt.jwt', jwt, false);
  PERFORM auth.session();
END
$function$;
`;

/** Puts the extension into a private tree, or a newer one in its place. */
export async function placeSessionJwt(extensionDirectory: string): Promise<void> {
  const place = async (name: string, content: string) => {
    const file = path.join(extensionDirectory, name);
    if ((await readFile(file, 'utf8').catch(() => undefined)) === content) return;
    const temporary = `${file}.${process.pid}.tmp`;
    await writeFile(temporary, content, { mode: 0o444 });
    await rename(temporary, file);
  };
  // The control file last: without it nobody looks for the other.
  await place(`${NAME}--${VERSION}.sql`, SCRIPT);
  await place(`${NAME}.control`, CONTROL);
}
