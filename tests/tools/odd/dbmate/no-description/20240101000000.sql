-- migrate:up
create table a (i int);
-- migrate:down
