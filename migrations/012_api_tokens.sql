-- ============================================================================
-- Migration 012: API tokens
--
-- Bearer token authentication for programs: "Authorization: Bearer dv_…". A token
-- is shown once, when it is created. We store its SHA-256, so a copy of this table
-- lets nobody in, and its first characters, so that people can tell their tokens
-- apart.
-- ============================================================================

CREATE TABLE api_tokens (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id       bigint NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    name          text NOT NULL CHECK (btrim(name) <> ''),
    prefix        text NOT NULL CHECK (length(prefix) = 8),
    token_hash    bytea NOT NULL CHECK (octet_length(token_hash) = 32),
    scopes        text[] NOT NULL
                  CHECK (cardinality(scopes) > 0)
                  CHECK (array_position(scopes, NULL) IS NULL)
                  CHECK (scopes <@ ARRAY['devices:read', 'devices:write', 'people:read', 'people:write',
                                         'admin']),
    expires_at    timestamptz,
    revoked_at    timestamptz,
    last_used_at  timestamptz,
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now(),

    CONSTRAINT api_tokens_token_hash_key UNIQUE (token_hash),
    CHECK (expires_at > created_at)
);

-- Names are for people, so they are unique only among tokens that still work.
CREATE UNIQUE INDEX api_tokens_name_key ON api_tokens (user_id, lower(name)) WHERE revoked_at IS NULL;

CREATE FUNCTION authenticate_api_token(bearer text, required_scope text)
RETURNS TABLE (token_id bigint, user_id bigint, role text)
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
DECLARE
    token api_tokens%ROWTYPE;
BEGIN
    -- Looked up by its hash, so the time it takes reveals nothing about other tokens.
    SELECT * INTO token
    FROM api_tokens
    WHERE token_hash = sha256(convert_to(bearer, 'UTF8'))
      AND revoked_at IS NULL
      AND (expires_at IS NULL OR expires_at > now())
      AND scopes && ARRAY[required_scope, 'admin'];

    IF NOT FOUND THEN
        RETURN;
    END IF;

    -- A busy token is used many times a second. For "last used", once a minute is
    -- precise enough, and it saves the table many dead rows.
    UPDATE api_tokens
    SET last_used_at = now()
    WHERE id = token.id
      AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute');

    RETURN QUERY
    SELECT token.id, users.id, users.role
    FROM users
    WHERE users.id = token.user_id AND users.disabled_at IS NULL;
END
$$;

-- An old token must not work again when a disabled account is enabled again.
CREATE FUNCTION revoke_tokens_of_disabled_user()
RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    UPDATE api_tokens SET revoked_at = now() WHERE user_id = NEW.id AND revoked_at IS NULL;
    DELETE FROM sessions WHERE user_id = NEW.id;
    RETURN NULL;
END
$$;

CREATE TRIGGER users_disabled
    AFTER UPDATE OF disabled_at ON users
    FOR EACH ROW WHEN (OLD.disabled_at IS NULL AND NEW.disabled_at IS NOT NULL)
    EXECUTE FUNCTION revoke_tokens_of_disabled_user();

CREATE TRIGGER api_tokens_set_updated_at
    BEFORE UPDATE ON api_tokens FOR EACH ROW EXECUTE FUNCTION set_updated_at();

-- last_used_at is not logged in the audit log: using a token is not a change.
CREATE TRIGGER api_tokens_audit
    AFTER INSERT OR UPDATE OR DELETE ON api_tokens
    FOR EACH ROW EXECUTE FUNCTION write_audit_log('token_hash', 'last_used_at');

COMMENT ON TABLE api_tokens IS 'Bearer tokens for programs. The token itself is not stored.';
COMMENT ON COLUMN api_tokens.prefix IS 'The first eight characters of the token, to show in lists.';
COMMENT ON COLUMN api_tokens.token_hash IS 'SHA-256 of the whole token; being random, it needs no slow hash.';
COMMENT ON COLUMN api_tokens.scopes IS 'What the token may do; admin includes all others.';
COMMENT ON COLUMN api_tokens.expires_at IS 'NULL: does not expire.';
COMMENT ON COLUMN api_tokens.last_used_at IS 'Exact to a minute.';
COMMENT ON FUNCTION authenticate_api_token(text, text)
    IS 'The user behind a bearer token if it is valid and has the scope; no row otherwise.';
