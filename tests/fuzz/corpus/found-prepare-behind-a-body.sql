-- Found by the fuzzer: behind a body with a column named case, the words had no PREPARE TRANSACTION.
CREATE FUNCTION f(a int)RETURNS int BEGIN ATOMIC SELECT a"d";SELECT 1 case;END;SAVEPOINT x;RELEASE--
x;PREPARE	TRANSACTION 'a'