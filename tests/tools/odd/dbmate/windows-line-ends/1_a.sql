-- migrate:up
create table a (i int);
-- migrate:down
drop table a;
