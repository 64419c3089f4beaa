-- entrypoint: no-transaction
SET standard_conforming_strings = off; SELECT 'it\'s; COMMIT; --';
SET standard_conforming_strings = on; SELECT 'C:\'; SELECT 1
