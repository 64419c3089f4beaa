from django.db import migrations, models


def stock(apps, _schema_editor):
    product = apps.get_model("products", "Product")
    product.objects.bulk_create([product(name="apple"), product(name="pear")])


class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [
        migrations.CreateModel(
            name="Product",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(max_length=100, unique=True)),
            ],
        ),
        migrations.RunPython(stock, migrations.RunPython.noop),
    ]
